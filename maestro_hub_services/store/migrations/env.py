"""Run by alembic: migrates over the connection that :mod:`maestro_hub_services.store.migrate` hands in."""

from alembic import context

from maestro_hub_services.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # sqlite cannot alter much
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
