"""An engine whose work is done by processes of its own does not outlive them."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading


def exit_with_children() -> None:
    """End this process when a process that vLLM started ends. Otherwise vLLM would wait for it for ever; Ray restarts a
    dead actor and repeats its units."""
    children = multiprocessing.active_children()
    if not children:
        return

    def watch() -> None:
        multiprocessing.connection.wait([child.sentinel for child in children])
        if threading.main_thread().is_alive():  # otherwise the child ended because this process is ending
            print("a process of vLLM has ended; so does its engine", file=sys.stderr, flush=True)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
