"""The model repository: archives, layouts, configuration."""
