"""The server of commands in the tests outlives nothing that it serves."""

import os
import socket

import warm


def test_no_more_callers_are_awaited_once_the_starter_is_gone(tmp_path, monkeypatch):
    there, starter = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        listener.bind("socket")
        listener.listen()
        caller.connect("socket")
        found = warm.callers(listener, until=there)
        next(found).close()
        os.close(starter)
        assert next(found, None) is None
    os.close(there)
