"""The server's side of Algorithm 1 as a strategy of Flower: who gets what, what becomes of the answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from heterofl_core.errors import InputError
from heterofl_core.examples import ImageExamples
from heterofl_core.federation import Federation, Weights
from heterofl_core.heterofl import aggregate
from heterofl_core.selection import LABELS
from heterofl_core.tasks import ClientShare
from heterofl_flower.messages import Answer, from_record, pack_task, to_record, to_tensors, unpack_update
from heterofl_flower.roster import Roster


@dataclass(frozen=True)
class Sent:
    """What the server remembers of a task that is under way.

    Attributes:
        message: that went out.
        client: who works on it.
        index: the coordinates that it holds.
    """

    message: Message
    client: int
    index: dict[str, np.ndarray]


class HeteroFL(Strategy):
    """Algorithm 1: each node gets the sub-model of the level that its key has on the roster.

    A client that has not answered when the deadline passes, or whose answer is not what it was asked for, is
    left out of the round's mean. It is asked again in the next one, if it is still connected.

    Args:
        federation: the core's, for which everybody on the roster is a client.
        roster: who takes part.
        deadline_seconds: how long the messages of a round are valid.
        say: takes a sentence on what happens.

    Attributes:
        weights: the global parameters so far.
        participants: for each round so far, the clients that are in its mean.
    """

    def __init__(
        self,
        federation: Federation,
        roster: Roster,
        deadline_seconds: float,
        say: Callable[[str], None] = print,
    ) -> None:
        self.federation = federation
        self.roster = roster
        self.deadline_seconds = deadline_seconds
        self.say = say
        self.weights = federation.initial_weights()
        self.participants: list[list[int]] = []
        self.sent: list[Sent] = []

    def summary(self) -> None:
        """Says who may take part."""
        for member in self.roster.members:
            self.say(f"client {member.client} has level {member.level}, by its key")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A message for each active client that is connected: its slice of the global parameters."""
        self.weights = Weights(to_tensors(from_record(arrays)))
        nodes, strangers = self.roster.recognise(grid.get_nodes())
        for node in strangers:
            self.say(
                f"round {server_round}: node {node} has a key that is not on the roster, and gets nothing"
            )
        self.sent = []
        for client in self.federation.active_clients(server_round):
            if client not in nodes:
                self.say(f"round {server_round}: client {client} is not connected")
                continue
            self.sent.append(self.task_for(server_round, client, nodes[client]))
        return [sent.message for sent in self.sent]

    def task_for(self, server_round: int, client: int, node: int) -> Sent:
        """What one client gets in a round, by the core's `client_task`."""
        federation = self.federation
        level = self.roster.members[client].level
        index = federation.sub_model(server_round, client, level)
        share = nothing_known(federation)
        task = federation.client_task(self.weights, server_round, client, level, share, index)
        elements = sum(value.size for value in task.model.parameters.values())
        self.say(f"round {server_round}: client {client} gets {elements:,} parameters, level {level}")
        message = Message(
            pack_task(task, len(self.roster.members)),
            dst_node_id=node,
            message_type=MessageType.TRAIN,
            ttl=self.deadline_seconds,
            group_id=str(server_round),
        )
        return Sent(message, client, index)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Equations (1) to (3), by the core's `aggregate`, over the answers that came and fit."""
        # Flower gives a message its number when it is sent, and lets only the node that got it answer it.
        asked = {sent.message.metadata.message_id: sent for sent in self.sent}
        answers: dict[int, tuple[Sent, Answer]] = {}
        for reply in replies:
            sent = asked[reply.metadata.reply_to_message_id]
            if answer := self.accepted(server_round, sent, reply):
                answers[sent.client] = sent, answer
        for sent in self.sent:
            if sent.client not in answers:
                self.say(f"round {server_round}: client {sent.client} is left out of the mean")
        clients = sorted(answers)
        self.participants.append(clients)
        if not clients:
            self.say(f"round {server_round}: nobody is in the mean, so all parameters stay as they were")
            return None, None
        updates = []
        for sent, answer in (answers[client] for client in clients):
            labels = {} if answer.held is None else {LABELS: answer.held}
            updates.append(({**sent.index, **labels}, answer.parameters))
        self.weights = Weights(aggregate(self.weights.shared, self.federation.axes, updates))
        loss = float(np.mean([answer.loss for _, answer in answers.values()]))
        self.say(f"round {server_round}: the mean of clients {clients}; their mean loss is {loss:.3f}")
        return as_record(self.weights), MetricRecord({"loss": loss})

    def accepted(self, server_round: int, sent: Sent, reply: Message) -> Answer | None:
        """A reply's content, if it is what was asked for; says why if it is not."""
        if reply.has_error():
            self.say(f"round {server_round}: no update from client {sent.client}: {reply.error.reason}")
            return None
        try:
            answer = unpack_update(reply.content, self.weights.shared, self.federation.axes, sent.index)
        except InputError as error:
            self.say(f"round {server_round}: the update of client {sent.client} is refused: {error}")
            return None
        level = self.roster.members[sent.client].level
        if answer.claimed not in ("", level):
            self.say(
                f"round {server_round}: client {sent.client} says that it has level "
                f"{answer.claimed!r:.20}; its key has level {level}, and that holds"
            )
        return answer

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Nobody is asked; the model is judged when the run has ended."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing, since nobody was asked."""
        return None


def as_record(weights: Weights) -> ArrayRecord:
    """The global parameters as Flower passes them from round to round."""
    return to_record({name: value.numpy() for name, value in weights.shared.items()})


def nothing_known(federation: Federation) -> ClientShare:
    """All that the server knows of a client's data: the sizes that a model for them has."""
    empty = np.empty(0)
    no_examples = ImageExamples(empty, empty, empty, empty, augmented=False)
    return ClientShare(no_examples, federation.task.sizes, {}, {}, held=np.empty(0, bool), left_out=0)
