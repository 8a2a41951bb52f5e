"""A run as a folder for others, in the layout of model hubs; ``runs/published_folder`` reads it.

Read ``publish_run`` first.
"""
