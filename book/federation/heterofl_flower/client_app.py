"""The client: takes the sub-model that it is sent, trains it on its own data, sends the update back.

Flower starts a new process for each message. Nothing here decides how wide the model is.
"""

from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from heterofl_core.clients import client_update
from heterofl_core.executor import on_one_thread
from heterofl_flower.messages import pack_update, unpack_task
from heterofl_flower.settings import own_share

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """ClientUpdate of Algorithm 1, by the core's `client_update`."""
    settings: Any = message.content.config_records["settings"]
    others: Any = message.content.config_records["federation"]
    client, num_clients = settings["client"], others["num_clients"]
    print(f"client {client}: round {settings['round']} begins", flush=True)
    task = unpack_task(message.content, own_share(context.run_config, client, num_clients))
    update = on_one_thread(client_update, task)
    claimed = str(context.node_config.get("level", ""))  # the server notes it, and does not believe it
    return Message(pack_update(task, update, claimed), reply_to=message)
