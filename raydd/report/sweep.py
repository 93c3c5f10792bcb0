"""stub"""

from raydd.store import Folder


def write_sweep(folder: Folder) -> str:
    """stub"""
    folder.write("report.html", b"")
    return ""
