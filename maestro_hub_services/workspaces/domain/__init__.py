"""What the service decides and does, one concern a module. Every function takes the Authority and raises MaestroError.

people      who am I                      workspaces  create, list, view, change, archive
members     list, add or change, remove   access      which workspace, with which role (used by all others)
admission   plan, confirm, release        plans       a decision as the LaunchPlan that the spawner applies
launching   start and stop by the Hub     launches    list and view
forms       what a form may offer         limits      quotas with what is in use
quotas      figures set at runtime        near        who is near a limit
groups      pools follow the Hub's groups
tracking    MLflow's question             packages    the index's questions
reconcile   launches against the Hub's list of servers
"""
