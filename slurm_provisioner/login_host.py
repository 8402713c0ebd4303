"""A cluster's login host, as a kernelspec names it in ``ssh``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from . import fields

__all__ = ["JumpHost", "LoginHost", "NodeHost"]


class LoginHost(BaseModel):
    """How the cluster is reached by SSH; what is not said here is up to ``~/.ssh/config``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: What errors call it.
    role: ClassVar[str] = "login host"

    host: fields.SshHost = Field(description="The login host: a name, an address, or a Host of ~/.ssh/config.")
    user: fields.SshUser | None = Field(
        default=None, description="Your name there. Default: that of ~/.ssh/config, else your name here."
    )
    port: fields.Port | None = Field(default=None, description="Its port. Default: that of ~/.ssh/config, else 22.")
    transport: Literal["asyncssh", "openssh"] = Field(
        default="asyncssh",
        description='"asyncssh": in this process. "openssh": the ssh program, with one connection that is shared by '
        "all its calls, yours where one is open; for one-time passwords, hardware keys, Kerberos and what else only "
        'that program can do. Default: "asyncssh".',
    )
    via: Literal["login", "node"] = Field(
        default="login",
        description='How a kernel is reached: "login": from the login host to a port of its node. "node": by SSH to '
        'the node itself, through the login host, where a firewall closes such ports. Default: "login".',
    )
    config: fields.Path | None = Field(
        default=None,
        description="A file to be read in place of ~/.ssh/config and the system's, on this side. Default: none.",
    )
    program: fields.Program = Field(
        default="ssh",
        description='The ssh program, or a site\'s wrapper of it, for "openssh". Default: "ssh".',
    )
    control_path: fields.Path | None = Field(
        default=None,
        description="Where a connection of your own (ssh -M -S PATH) is looked for, with ssh's %-patterns, for "
        '"openssh". Default: the ControlPath of ~/.ssh/config, then ~/.ssh/slurm-provisioner-%C.',
    )

    def command_line(self, *words: str, program: str = "", options: Sequence[str] = ()) -> str:
        """Return the command that a user would type for this host: ssh with some options before it, words after it."""
        given = [*(["-F", self.config] if self.config else []), *(["-p", str(self.port)] if self.port else [])]
        return shlex.join([program or self.program, *options, *given, self.address, *words])

    @property
    def address(self) -> str:
        """The host, with the user where one is given."""
        return f"{self.user}@{self.host}" if self.user else self.host


class JumpHost(LoginHost):
    """A host on the way to another one."""

    role: ClassVar[str] = "jump host"


class NodeHost(LoginHost):
    """A compute node, which is reached by way of a login host."""

    role: ClassVar[str] = "node"
    jump: str = ""

    @classmethod
    def behind(cls, login: LoginHost, node: str) -> NodeHost:
        """Return a node of the cluster behind a login host."""
        there = login.model_dump(include={"user", "transport", "config", "program"})
        return cls(host=node, jump=f"{login.address}:{login.port}" if login.port else login.address, **there)

    def command_line(self, *words: str, program: str = "", options: Sequence[str] = ()) -> str:
        """Return the command that a user would type to get there."""
        return super().command_line(*words, program=program, options=["-J", self.jump, *options])
