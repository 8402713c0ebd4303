"""What a kernel's clients connect to: a stand-in while there is no kernel, and the way to it once there is one."""

from .front import Front

__all__ = ["Front"]
