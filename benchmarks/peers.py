"""Models that a user would pick instead of ours, at the same shape.

`transformers`: PhiForCausalLM with SDPA, the same network as ours.
`litgpt`: its GPT class with the settings of its own phi entries, the same network but for dropout,
which it has not.
`nanogpt`: written here in nanoGPT's manner, because that is no package: fused QKV and SDPA, but
attention and MLP one after the other with a LayerNorm each, learned positions, and an output layer
that is the embedding. At equal width and depth it has fewer parameters and no rotation.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phi1_nb.config import SCALES, ModelConfig
from phi1_nb.interchange import config_to_json
from phi1_nb.model import Phi

SHAPES = {
    "nano": (replace(SCALES["nano"].model), 32),
    "micro": (replace(SCALES["micro"].model, attn_dropout=0.0, resid_dropout=0.0), 8),
    "micro with dropout": (SCALES["micro"].model, 8),
    "phi-1-small, 4 layers": (
        replace(
            SCALES["phi-1-small"].model,
            n_layers=4,
            context_length=512,
            attn_dropout=0.0,
            resid_dropout=0.0,
        ),
        2,
    ),
}


class NanoBlock(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.d_model
        self.n_heads, self.rates = config.n_heads, (config.attn_dropout, config.resid_dropout)
        self.before_attention, self.before_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, config.d_mlp), nn.Linear(config.d_mlp, d)

    def forward(self, x: Tensor) -> Tensor:
        attention_rate, rate = self.rates if self.training else (0.0, 0.0)
        heads = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = heads.transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=attention_rate, is_causal=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), rate)
        return x + F.dropout(self.down(F.gelu(self.up(self.before_mlp(x)))), rate)


class NanoShaped(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context_length, config.d_model)
        self.blocks = nn.Sequential(*(NanoBlock(config) for _ in range(config.n_layers)))
        self.norm = nn.LayerNorm(config.d_model)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def transformers_model(config: ModelConfig) -> nn.Module:
    "`PhiForCausalLM` with random weights."
    from transformers import PhiConfig, PhiForCausalLM

    content = config_to_json(config)
    return PhiForCausalLM(PhiConfig(**content, attn_implementation="sdpa"))


def litgpt_model(config: ModelConfig) -> nn.Module:
    "litgpt's GPT as its phi entries configure it."
    from litgpt.config import Config
    from litgpt.model import GPT

    return GPT(
        Config(
            block_size=config.context_length,
            vocab_size=config.vocab_size,
            padded_vocab_size=config.vocab_size,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_embd=config.d_model,
            intermediate_size=config.d_mlp,
            rotary_percentage=config.rotary_dim / config.d_head,
            parallel_residual=True,
            shared_attention_norm=True,
            bias=True,
            lm_head_bias=True,
            gelu_approximate="tanh",
        )
    )


class Loss(nn.Module):
    "A peer's model with the usual loss behind it: fp32 cross entropy of all logits."

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        out = self.model(ids)
        logits = getattr(out, "logits", out)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def trainable(name: str, config: ModelConfig) -> nn.Module:
    "A module from (ids, labels) to a loss, in training mode."
    torch.manual_seed(0)
    if name == "ours":
        return Phi(config).train()
    made = {"transformers": transformers_model, "litgpt": litgpt_model, "nanogpt": NanoShaped}
    return Loss(made[name](config)).train()


def transformers_generate(model, prompts, n: int, temperature: float, batch_size: int):
    "New tokens of each prompt, shortest first."
    prompts, new = sorted(prompts, key=len), []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in part]).to(model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part]).to(model.device)
        how = dict(do_sample=True, temperature=temperature, top_k=0) if temperature else {}
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=n,
                pad_token_id=0,
                eos_token_id=None,
                **({"do_sample": False} | how),
            )
        new += out[:, width:].tolist()
    return new
