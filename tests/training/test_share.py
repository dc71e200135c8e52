import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from staff.training.share import Share


def test_sums_of_all_processes_in_the_shapes_they_had():
    gradients = [torch.ones(2, 3), torch.tensor(5.0), torch.ones(0, 4)]
    sums = Share(0, 2, lambda tensor: tensor.mul_(2)).summed(gradients)
    assert [total.tolist() for total in sums] == [[[2.0] * 3] * 2, 10.0, []]
    assert gradients[1] == 5  # its own is as it was


def test_processes_agree_where_all_have_one_number():
    # Two processes, the other of which is at step 7.
    share = Share(0, 2, lambda tensor: tensor.add_(torch.tensor([7.0, 1.0])))
    assert share.agrees(7)
    assert not share.agrees(6)


def test_the_process_with_the_most_rows_is_the_first():
    for rows in range(9):
        shares = [Share(rank, 3, lambda tensor: None) for rank in range(3)]
        assert shares[0].most(rows) == max(len(one.of(list(range(rows)))) for one in shares)


def test_processes_talk_on_the_cpu_and_sums_lie_where_the_model_does():
    """The trainer refuses a loss that comes back on another device. No GPU is needed to tell."""
    talked = []
    with FakeTensorMode():
        second = torch.device("cuda:1")
        gradients = [torch.ones(size, device=second, dtype=torch.bfloat16) for size in ((2, 3), ())]
        sums = Share(1, 2, talked.append).summed(gradients)
    assert [tensor.device.type for tensor in talked] == ["cpu"]
    assert {total.device for total in sums} == {second}
    assert {total.dtype for total in sums} == {torch.float32}
