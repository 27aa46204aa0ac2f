"""A front thread has a thread of its own do each job; sentry-sdk 2.26.0 gave all of them the front thread's scope."""

import queue
import threading
import time

import sentry_sdk
from sentry_sdk.integrations.threading import ThreadingIntegration

sent = []
jobs = queue.Queue()


class Kept(sentry_sdk.transport.Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items if item.headers.get("type") == "event")


sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1",
    transport=Kept,
    integrations=[ThreadingIntegration(propagate_scope=True)],
    default_integrations=False,
)


def work(number, name, done):
    if name:
        sentry_sdk.set_tag("tenant", name)
    time.sleep(0.002)
    sentry_sdk.capture_message(f"job {number}")
    done.set()


def front():
    while True:
        threading.Thread(target=work, args=jobs.get()).start()


def report(number, name):
    """What Sentry is sent of a job."""
    done = threading.Event()
    jobs.put((number, name, done))
    done.wait()
    return [event.get("tags") for event in sent if event["message"] == f"job {number}"]


threading.Thread(target=front, daemon=True).start()
