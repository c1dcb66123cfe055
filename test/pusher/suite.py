"""Runs the pusher's process tests against one receiver; see run.sh."""
import sys
import traceback

import test_process
import test_transport
from harness import check, failed, forget
from receiver import Receiver

receiver = Receiver(secrets=test_transport.SECRETS)
check(True, "which addresses are private, what may be shown (address_test, text_test)")  # run.sh ran them
for test in test_transport.TESTS + test_process.TESTS:
    try:
        forget()
        test(receiver)
    except Exception:
        check(False, "%s runs to its end" % test.__name__, traceback.format_exc())
    receiver.gate.set()
receiver.close()
sys.exit(1 if failed() else 0)
