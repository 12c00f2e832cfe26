"""``python -m maestro_hub_services.packages``"""

from .app import main

if __name__ == "__main__":
    main()
