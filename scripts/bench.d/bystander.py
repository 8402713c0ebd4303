"""An event loop with nothing to do, until standard input ends: how late it is, the machine itself is."""

from __future__ import annotations

import asyncio
import json
import sys

from loops import Beat


async def main() -> None:
    beat = Beat()
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(beat.stop()))


asyncio.run(main())
