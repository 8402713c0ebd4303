"""An event loop with nothing to do, until standard input ends: how late it is, the machine itself is.

Every tenth of a second it starts a program that does nothing: that, too, takes what the machine lets it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from loops import Beat, Holds

PAUSE = 0.1


async def main() -> None:
    beat, holds, ended = Beat(), Holds(), asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        await asyncio.create_subprocess_exec("true")
        await asyncio.wait([ended], timeout=PAUSE)
    print(json.dumps({**beat.stop(), **holds.told()}))


asyncio.run(main())
