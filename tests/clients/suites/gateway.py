"""What the suites know of the gateways: their addresses, and how often they were asked."""

import os
import urllib.request
from dataclasses import dataclass

ANSWER = "The answer is \\boxed{7}"  # what the scripted engine says when the prompt asks for nothing else


@dataclass(frozen=True)
class Gateway:
    url: str
    model: str
    key: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def asked(self) -> int:
        """Chat requests that it has answered, the clients' retries included."""
        with urllib.request.urlopen(f"{self.url}/metrics") as page:  # noqa: S310 - a gateway of ours
            lines = page.read().decode().splitlines()
        return round(sum(float(line.split()[-1]) for line in lines if line.startswith("apportion_requests_total{")))


LIVE = Gateway(url=os.environ["LIVE_URL"], model="smollm2-135m-instruct", key="unused")  # the real model
SCRIPTED = Gateway(
    url=os.environ["SCRIPTED_URL"], model="tiny", key=os.environ["SCRIPTED_KEY"]
)  # an engine that does what the prompt says; keys are needed
