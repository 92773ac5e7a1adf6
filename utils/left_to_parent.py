"""Importing this leaves Ctrl-C and closed terminals to the parent: for servers that fork workers, and so for those."""

from utils.signals import leave_to_parent

leave_to_parent()
