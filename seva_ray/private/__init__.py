"""What other libraries do not offer in public, in one file for each library. An upgrade is checked here first.

Each function says what it does, and why no public interface does it. tests/test_private_names.py checks that all these
names exist in the installed versions, and that no other file uses one.
"""
