"""llama.cpp with our weights: a GGUF file, and its server's engine in this process.

The engine comes from PyPI's `xllamacpp`, whose Linux wheel is built without AVX-512; a native build
of llama.cpp is faster. The keys and values are in 16 bits, as is its default.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from phi1_nb.interchange import to_transformers
from phi1_nb.model import Phi

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.dense": "attn_output",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def write_gguf(model: Phi, tokenizer, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    "Our weights as llama.cpp's phi2, with the vocabulary of `tokenizer` padded to the model's."
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "phi2")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_mlp)
    writer.add_block_count(config.n_layers)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(config.rope_theta)
    vocabulary = tokenizer.fast.get_vocab()
    tokens = [f"[unused{i}]" for i in range(config.vocab_size)]
    for text, i in vocabulary.items():
        tokens[i] = text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    merges = json.loads(tokenizer.fast.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eot)
    writer.add_bos_token_id(tokenizer.eot)
    writer.add_add_bos_token(False)
    for name, tensor in to_transformers(model.state_dict()).items():
        for theirs, its in NAMES.items():
            name = name.replace(theirs, its)
        kind = dtype if tensor.dim() == 2 else torch.float32
        writer.add_tensor(name, tensor.detach().to(kind).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Engine:
    "llama.cpp's server without its network: many prompts at once, batched by itself."

    def __init__(self, path: Path, n_parallel: int, context_length: int, n_threads: int = 2):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel, params.n_ctx = n_parallel, n_parallel * context_length
        params.n_batch = params.n_ubatch = 2048
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
        params.cont_batching, params.warmup = True, False
        self.n_parallel, self.server = n_parallel, xllamacpp.Server(params)

    def generate(self, prompts: list[list[int]], n: int, temperature: float) -> list[str]:
        "The text behind each prompt, of `n` tokens. Raises `RuntimeError` for fewer."

        def ask(prompt: list[int]) -> str:
            sampler = {"samplers": ["temperature"]} if temperature else {"top_k": 1}
            answer = self.server.handle_completions(
                {
                    "prompt": prompt,
                    "max_tokens": n,
                    "temperature": temperature,
                    "ignore_eos": True,
                    "cache_prompt": False,
                    **sampler,
                }
            )
            if answer["usage"]["completion_tokens"] != n:
                raise RuntimeError(f"llama.cpp stopped early: {answer['usage']}")
            return answer["choices"][0]["text"]

        with ThreadPoolExecutor(self.n_parallel) as pool:
            return list(pool.map(ask, prompts))
