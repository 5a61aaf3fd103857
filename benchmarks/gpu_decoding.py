"""Greedy decoding on one GPU: ours against transformers.generate, both in bf16.

    python -m benchmarks.gpu_decoding [--scale phi-1-small] [--tokens 128] [--rounds 5]

164 prompts of 60 to 259 random tokens, random weights, nothing ends early. transformers pads on the
left and decodes all prompts in one batch.
"""

import argparse
from dataclasses import replace

import torch

from benchmarks.common import interleaved, row, seconds, write
from benchmarks.peers import transformers_generate, transformers_model
from phi1_nb.config import get_scale
from phi1_nb.generation import generate
from phi1_nb.interchange import to_transformers
from phi1_nb.model import Phi

N_PROMPTS = 164


def tasks(scale: str, tokens: int) -> dict:
    "For ours and the peer, a function that decodes all prompts and returns tokens a second."
    config = replace(get_scale(scale).model, attn_dropout=0.0, resid_dropout=0.0)
    ours = Phi(replace(config, initializer_range=0.08)).eval()
    theirs = transformers_model(config).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()))
    ours, theirs = ours.cuda().bfloat16(), theirs.cuda().bfloat16()
    lengths = torch.randint(60, 260, (N_PROMPTS,)).tolist()
    prompts = [torch.randint(config.vocab_size, (n,)).tolist() for n in lengths]
    settings = {
        "ours": lambda: generate(ours, prompts, max_new_tokens=tokens),
        "transformers bf16": lambda: transformers_generate(theirs, prompts, tokens, 0, N_PROMPTS),
    }
    return {
        name: lambda run=run: N_PROMPTS * tokens / seconds(run) for name, run in settings.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="phi-1-small")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_decoding needs a CUDA device: benchmarks.decoding runs on a CPU")
    torch.manual_seed(0)
    made = tasks(asked.scale, asked.tokens)
    interleaved(made, 1, say=False)  # kernels are chosen and loaded
    found = interleaved(made, asked.rounds)
    case = f"{asked.scale} bf16, {torch.cuda.get_device_name()}, {N_PROMPTS} prompts x "
    case += f"{asked.tokens}, T=0, tokens/s"
    peer = "transformers bf16"
    write("gpu_decoding", [row(case, peer, found["ours"], found[peer])])


if __name__ == "__main__":
    main()
