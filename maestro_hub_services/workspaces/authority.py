"""What every function of the domain works with, put together once at the start."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from maestro_core.advisories import Malware
from maestro_hub_services.settings import Settings
from maestro_hub_services.store import Store

from .bell import Bell
from .hub import Hub
from .index_tokens import IndexTokens
from .job_board import JobBoard
from .leftovers import Leftovers
from .names_asked import NamesAsked
from .network import Network, OpenNetwork
from .nodes import Nodes
from .outcomes import Outcomes
from .policy_file import PolicyFile
from .resizing import Resizer
from .runners import Runner
from .samples import Samples
from .templates import Templates
from .volumes import Volumes


@dataclass
class KnownMalware:
    """Holds the book that counts; another takes its place after an import."""

    book: Malware = field(default_factory=Malware)


@dataclass(frozen=True)
class Authority:
    """The parts of the service.

    Attributes:
        store: the truth. hub: users, groups, servers. policy: ``maestro.yaml`` as it is in force.
        volumes: the files' places. tokens: makes and reads index tokens. templates: the notebook templates.
        nodes: where servers are placed, if on a cluster. resizer: changes what running servers have.
        network: what servers may connect to.
        outcomes: tells who started a server what was decided on it. leftovers: refused servers' rows in the Hub.
        samples: heartbeats that wait to be written. bell: wakes who waits for a launch's notices.
        runner: where jobs run. board: what the queue remembers.
        names: asks the index's service whether a package exists.
        malware: what is known to be malware, as the last import left it.
        purges: those that are being carried out, by workspace id.
        resizes: the launches whose server is being resized by a request of this process.
    """

    settings: Settings
    store: Store
    hub: Hub
    policy: PolicyFile
    volumes: Volumes
    tokens: IndexTokens
    templates: Templates
    nodes: Nodes
    resizer: Resizer
    runner: Runner
    network: Network = field(default_factory=OpenNetwork)
    outcomes: Outcomes = field(default_factory=Outcomes)
    leftovers: Leftovers = field(default_factory=Leftovers)
    samples: Samples = field(default_factory=Samples)
    bell: Bell = field(default_factory=Bell)
    board: JobBoard = field(default_factory=JobBoard)
    malware: KnownMalware = field(default_factory=KnownMalware)
    names: NamesAsked = field(default_factory=NamesAsked)
    purges: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    resizes: set[str] = field(default_factory=set)
