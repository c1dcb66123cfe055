"""Runs the pusher's process tests against one receiver; see run.sh."""
import sys

import test_process
import test_transport
from harness import check, failed
from receiver import Receiver

receiver = Receiver(secrets=test_transport.SECRETS)
for module in (test_transport, test_process):
    for name in ("test_all",):
        try:
            getattr(module, name)(receiver)
        except Exception:
            import traceback

            check(False, "%s runs to its end" % module.__name__, traceback.format_exc())
receiver.close()
sys.exit(1 if failed() else 0)
