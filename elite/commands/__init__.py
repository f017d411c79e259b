"""The commands of ``elite``, one module each; heavy libraries load when a command runs."""
