"""Every stage in order, in about a minute: PHI1_HOME=FOLDER python tests/tiny_study.py"""

from dataclasses import replace

from phi1_nb import config

nano = config.nano
config.SCALES["tiny"] = tiny = replace(
    nano,
    name="tiny",
    model=replace(
        nano.model, vocab_size=1024, d_model=32, n_layers=1, d_mlp=64, rotary_dim=4,
        context_length=64,
    ),
    pretrain=replace(
        nano.pretrain, planned_steps=9, stop_step=6, warmup_steps=1, batch_size=8,
        micro_batch_size=4, checkpoint_every=3,
    ),
    finetune=replace(
        nano.finetune, planned_steps=6, stop_step=6, warmup_steps=1, batch_size=4,
        micro_batch_size=4, checkpoint_every=3,
    ),
    data=replace(nano.data, max_corpus_mb=3, n_annotated=200, n_exercises=300, n_heldout=20),
    evaluation=replace(nano.evaluation, max_new_tokens=8),
    seeds=(0, 1),
)  # fmt: skip


def main():
    from phi1_nb.finetune import finetune
    from phi1_nb.humaneval import humaneval
    from phi1_nb.packing import packing
    from phi1_nb.pretrain import pretrain
    from phi1_nb.quality_filter import quality_filter
    from phi1_nb.results import results
    from phi1_nb.synthesis import synthesis

    for stage in (quality_filter, synthesis, packing, pretrain, finetune, humaneval, results):
        print(stage(tiny.name).name, flush=True)


if __name__ == "__main__":
    main()
