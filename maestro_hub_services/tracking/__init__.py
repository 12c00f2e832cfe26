"""MLflow's own server with the Hub's identity and Maestro's workspaces: no fork, no proxy, no second set of accounts.

``python -m maestro_hub_services.tracking`` runs MLflow's ASGI application behind a gate that answers first:

``serve``       the process: binds the port at once, loads MLflow beside it
``gate``        what happens to a request, in order
``routes``      the table: every address of MLflow, and who may call it
``identity``    whose token this is, asked at the Hub; ``signin`` and ``session`` for browsers
``membership``  what somebody may do, asked at the workspaces service
``rules``       what is checked in a body; ``confine`` for a viewer's server
``mlflow_server``  everything that is known about MLflow's insides
"""
