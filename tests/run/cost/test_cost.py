"""Bytes counted by kind: against sums done by hand, without a bit changed; what a GPU or a counter tells; the words."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "model"))
from tuning_parts import batch_of, built

from cxr_ft.model.protocols import trainable
from cxr_ft.run.cost import energy_meter, memory
from cxr_ft.show.memory_sentence import sentence


def counted(model, batch, loss_of, optimizer=None):
    with memory.counting(memory.Count(memory.held(model, optimizer), batch), model) as count:
        loss = loss_of(model, batch)
        count.forward_done()
        loss.backward()
        del loss
    return count


def test_a_chain_of_products_by_hand():
    """y = W2 W1 x: the backward pass needs x and W1 x; its gradients come while the activations go."""
    model = nn.Sequential(nn.Linear(64, 128, bias=False), nn.Linear(128, 32, bias=False))
    batch = {"x": torch.randn(16, 64)}
    count = counted(model, batch, lambda m, b: m(b["x"]).sum())
    weights, x, hidden, y = 4 * (64 * 128 + 128 * 32), 4 * 16 * 64, 4 * 16 * 128, 4 * 16 * 32
    assert count.largest["weights"] == count.split["weights"] == weights
    assert count.largest["gradients"] == weights
    # Within the forward pass y as well; the batch is workspace until autograd saves it.
    assert count.largest["activations"] in (x + hidden, x + hidden + 4, x + hidden + y, x + hidden + y + 4)
    assert count.peak == sum(count.split.values())
    # At the end: weights, their gradients, the batch, and the gradient of the hidden state on its way.
    assert weights * 2 + x <= count.peak <= weights * 2 + x + hidden + y + 64
    # A product of [16, a] and [a, b] is 2 * 16 a b operations; backward takes two of each but for the first input's.
    assert count.flops == 2 * 16 * (3 * 128 * 32 + 2 * 64 * 128)


def test_optimizer_states_and_existing_tensors_are_counted_separately():
    model = nn.Linear(10, 10, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = {"x": torch.randn(2, 10)}
    first = counted(model, batch, lambda m, b: m(b["x"]).sum())
    optimizer.step()
    second = counted(model, batch, lambda m, b: m(b["x"]).sum(), optimizer)
    assert first.split["optimizer"] == 0
    assert second.split["optimizer"] == 2 * 400 + 4
    assert second.split["gradients"] >= 400  # of the step before, not yet zeroed
    assert memory.weights_alone(model) == {**dict.fromkeys(memory.KINDS, 0), "weights": 400}


@pytest.mark.parametrize(("method", "head"), [("full", "classify"), ("lora", "report"), ("adapter", "both")])
def test_counting_changes_no_bit(method, head):
    gradients = []
    for count in (False, True):
        parts = built(method, head=head)
        batch = batch_of(parts)
        parts.model.train()
        torch.manual_seed(1)
        if count:
            counted(parts.model, batch, lambda model, batch, parts=parts: parts.head.loss(model, batch)[0])
        else:
            parts.head.loss(parts.model, batch)[0].backward()
        gradients.append({name: p.grad for name, p in trainable(parts.model).items()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_copies_of_frozen_weights_in_bf16_are_weights():
    parts = built("lora")
    batch = batch_of(parts)

    def loss_of(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return parts.head.loss(model, batch)[0]

    parts.model.train()
    whole = counted(parts.model, batch, loss_of)
    plain = memory.weights_alone(parts.model)["weights"]
    inner = parts.model.get_base_model()
    frozen = sum(
        module.weight.numel()
        for name, module in inner.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name and "encoder" in name
    )
    assert whole.split["weights"] >= plain + 2 * frozen
    assert counted(parts.model, batch, loss_of).split["weights"] == pytest.approx(whole.split["weights"], rel=0.01)


def test_the_meter_counts_the_first_and_each_larger_batch_and_goes_on_from_the_record():
    model, cost = nn.Linear(8, 8), {"memory": {}}
    meter = memory.Meter(model, None)

    def one(rows, cost, meter=meter):
        batch = {"x": torch.randn(rows, 8)}
        with meter.part(batch, cost) as count:
            loss = model(batch["x"]).sum()
            count.forward_done()
            loss.backward()
            del loss
        model.zero_grad()
        return isinstance(count, memory.Count)

    assert [one(rows, cost) for rows in (4, 4, 2, 6, 5)] == [True, False, False, True, False]
    peak = sum(cost["memory"].values())
    again = memory.Meter(model, None)
    assert [one(rows, cost, again) for rows in (6, 7)] == [False, True]
    assert sum(cost["memory"].values()) > peak
    assert set(cost["memory"]) == set(memory.KINDS)
    assert cost["flops_per_sample"] == 2 * 8 * 8 * 2


class Clock:
    """A reader whose counter rises by 5 J at each look."""

    covers = "a test"

    def __init__(self):
        self.seen = 0.0

    def joules(self):
        self.seen += 5
        return self.seen

    def busy(self):
        return 40.0


def test_energy_is_the_difference_and_busy_the_mean(monkeypatch):
    monkeypatch.setattr(energy_meter, "EVERY", 0.01)
    with energy_meter.metered(Clock) as spent:
        torch.randn(300, 300) @ torch.randn(300, 300)
    recorded = spent.to_json(spent.seconds)
    assert recorded["joules"] >= 10 and recorded["busy_percent"] == 40 and recorded["why_not"] is None
    # A run that was stopped before: what it used then nobody measured.
    assert spent.to_json(spent.seconds + 100)["joules"] is None
    with energy_meter.metered(lambda: "no counter here") as spent:
        pass
    assert spent.to_json(0) == {"joules": None, "busy_percent": None, "of": None, "why_not": "no counter here"}


def test_rapl_adds_packages_and_survives_a_counter_that_starts_anew(tmp_path):
    packages = [tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:1", tmp_path / "intel-rapl:0:0"]
    for package, counter in zip(packages, (1_000_000, 99_000_000, 5), strict=True):
        package.mkdir()
        (package / "max_energy_range_uj").write_text("100000000\n")
        (package / "energy_uj").write_text(f"{counter}\n")
    reader = energy_meter.rapl(tmp_path)
    assert reader.joules() == 0 and reader.busy() is None
    (packages[0] / "energy_uj").write_text("3000000\n")
    (packages[1] / "energy_uj").write_text("499999\n")  # past the end of its range
    (packages[2] / "energy_uj").write_text("77777777\n")  # a part of package 0, counted there
    assert reader.joules() == pytest.approx(2 + 1.5, abs=1e-5)
    (packages[0] / "energy_uj").write_text("no number")
    assert "cannot be read" in energy_meter.rapl(tmp_path)
    assert "no RAPL" in energy_meter.rapl(tmp_path / "nowhere")


class Nvml:
    """The functions of pynvml, over 250 W and 80 %."""

    class NVMLError(Exception):
        pass

    def __init__(self, total=True, works=True):
        self.total, self.works, self.looks = total, works, 0

    def nvmlInit(self):
        if not self.works:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, _):
        if not self.total:
            raise self.NVMLError("not supported")
        self.looks += 1
        return 2000 * self.looks

    def nvmlDeviceGetPowerUsage(self, _):
        return 250_000

    def nvmlDeviceGetUtilizationRates(self, _):
        return type("Rates", (), {"gpu": 80})()


def test_a_gpu_tells_its_energy_or_its_watts():
    reader = energy_meter.nvidia(Nvml(), "GPU-1")
    assert reader.joules() == 4.0 and reader.busy() == 80
    old = energy_meter.nvidia(Nvml(total=False), "GPU-1")
    old.last -= 2
    assert old.joules() == pytest.approx(500, rel=0.05)
    assert "driver not loaded" in energy_meter.nvidia(Nvml(works=False), "GPU-1")


def cost_of(micro=8, trainable=10, **kinds):
    return {"memory": kinds, "parameters": {"trainable": trainable, "total": 1000}, "micro_batch": micro}


def test_the_sentence_says_whether_memory_is_saved_and_why_not():
    full = cost_of(weights=100, gradients=100, optimizer=200, activations=2000, trainable=1000)
    little = sentence("lora", cost_of(weights=101, activations=1990, optimizer=2), full)
    assert "trains 1 %" in little and "saves little memory here" in little
    assert "87.2 %" in little and "activations" in little and "fewer rows" in little
    much = sentence("lora", cost_of(weights=101, activations=500), full)
    assert "most of the difference is activations (1.5 kB less)" in much
    heavy = cost_of(weights=2000, gradients=10, optimizer=20, activations=100, trainable=1000)
    assert "frozen weights" in sentence("lora", cost_of(weights=2000, activations=90), heavy)
    assert "8 and 16 rows" in sentence("lora", cost_of(weights=1), cost_of(micro=16, weights=1))
    assert sentence("lora", {"memory": {}}, full) is None
