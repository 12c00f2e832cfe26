"""``python -m maestro_hub_services.workspaces``"""

from .app import main

if __name__ == "__main__":
    main()
