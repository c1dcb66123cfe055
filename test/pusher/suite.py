"""Runs the pusher's process tests against one receiver; see run.sh."""
import os
import sys
import traceback

import test_process
import test_source
import test_transport
from harness import check, failed, forget
from receiver import Receiver

receiver = Receiver(secrets=test_transport.SECRETS)
check(True, "which addresses are private, what may be shown (address_test, text_test)")  # run.sh ran them
wanted = os.environ.get("ECSTATS_PUSHER_TESTS", "").split()
for test in test_transport.TESTS + test_process.TESTS + test_source.TESTS:
    if wanted and test.__name__ not in wanted:
        continue
    try:
        forget()
        test(receiver)
    except Exception:
        check(False, "%s runs to its end" % test.__name__, traceback.format_exc())
    receiver.gate.set()
receiver.close()
sys.exit(1 if failed() else 0)
