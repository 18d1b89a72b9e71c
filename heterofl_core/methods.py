"""HeteroFL and the baselines that the paper compares with, told apart by what clients share.

| method | shared | Section, source |
|---|---|---|
| `heterofl` | everything; clients may have different levels | Section 3 |
| `fedavg` | everything; one level, no label mask, a mean that does not weigh | after McMahan et al. (2017) |
| `lg-fedavg` | the last layers; each client keeps its own first layers | Liang et al. (2020) |
| `standalone` | nothing; each client trains alone | Liang et al. (2020) |
"""

from heterofl_core.sliceable import SliceableModel


def shared_parameters(method: str, model: SliceableModel, shared_layers: int) -> set[str]:
    """The names of the parameters that the server averages; every other one belongs to a client.

    Args:
        method: a name in the table above.
        shared_layers: for `lg-fedavg`, how many of the last layers with a weight matrix are shared, with
            all that lies between and behind them in the order of the state dict. That may cut a block of
            `preresnet18` in two: its shortcut stands behind its two convolutions, and with 4 it is shared
            and they are not.
    """
    names = list(model.state_dict())
    if method == "standalone":
        return set()
    if method == "lg-fedavg":
        matrices = [name for name, value in model.state_dict().items() if value.dim() > 1]
        names = names[names.index(matrices[-min(shared_layers, len(matrices))]) :]
    return set(names)
