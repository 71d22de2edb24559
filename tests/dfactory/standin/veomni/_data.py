"""A mapping dataset over JSONL, and a loader of micro-batches behind a seeded sampler."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate


class MappingDataset(Dataset):
    def __init__(self, rows, transform):
        self.rows, self.transform = rows, transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.transform(self.rows[index])


def build_mapping_dataset(data_path, transform=None, namespace="train"):
    return MappingDataset([json.loads(line) for line in Path(data_path).read_text().splitlines()], transform)


def collate(features):
    batch = {}
    for key in features[0]:
        values = [feature[key] for feature in features]
        if key in ("input_ids", "attention_mask", "position_ids"):
            batch[key] = pad_sequence(values, batch_first=True, padding_value=0)
        elif key == "labels":
            batch[key] = pad_sequence(values, batch_first=True, padding_value=-100)
        else:
            batch[key] = default_collate(values)
    return batch


class Loader:
    """Yields a list of micro-batches a step."""

    def __init__(self, dataset, micro_batch_size, batch_size, seed, workers):
        self.sampler = DistributedSampler(dataset, dist.get_world_size(), dist.get_rank(), seed=seed, drop_last=True)
        self.seen = self.skipped = 0

        def micro_batches(examples):
            flat = [feature for example in examples for feature in example]
            return [collate(flat[low : low + micro_batch_size]) for low in range(0, len(flat), micro_batch_size)]

        self.loader = DataLoader(
            dataset, batch_size, sampler=self.sampler, collate_fn=micro_batches, num_workers=workers, drop_last=True
        )

    def set_epoch(self, epoch):
        self.sampler.set_epoch(epoch)

    def __iter__(self):
        skipped, self.skipped = self.skipped, 0

        def batches():
            for index, batch in enumerate(self.loader):
                self.seen = index + 1
                if index >= skipped:
                    yield batch

        return batches()

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.skipped = state["seen"]


def build_dataloader(
    *, dataset, micro_batch_size, global_batch_size, dataloader_batch_size, seed, max_seq_len, train_steps, rmpad,
    rmpad_with_pos_ids, bsz_warmup_ratio, bsz_warmup_init_mbtoken, dyn_bsz_margin, dyn_bsz_buffer_size, num_workers,
    drop_last, pin_memory, prefetch_factor,
):  # fmt: skip
    assert not rmpad
    assert not rmpad_with_pos_ids
    assert isinstance(train_steps, int)
    torch.set_num_threads(1)
    return Loader(dataset, micro_batch_size, dataloader_batch_size, seed, num_workers)
