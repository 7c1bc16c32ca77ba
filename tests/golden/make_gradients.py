#!/usr/bin/env python3
"""Writes tiny_llama_gradients.json: PyTorch's loss, importance sums and gradient samples of the bundled model, f64.
Usage: make_gradients.py MODEL TEXT OUT   (needs torch, transformers, tokenizers)"""
import base64, json, sys
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

model_dir, text, out = sys.argv[1:]
WINDOWS, TOKENS, SAMPLES = 6, 48, 64
ids = Tokenizer.from_file(model_dir + "/tokenizer.json").encode(open(text).read(20000), add_special_tokens=False).ids
x = torch.tensor(ids[: WINDOWS * TOKENS]).view(WINDOWS, TOKENS)
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64).eval()
tensors, hooks = {}, []
pack = lambda t: base64.b64encode(t.detach().to(torch.float32).contiguous().numpy().tobytes()).decode()
for name, module in model.named_modules():
    if not isinstance(module, torch.nn.Linear) or "layers" not in name:
        continue
    def forward(m, inputs, output, name=name):
        tensors[name + "/input"] = inputs[0].square().flatten(0, -2).mean(0)
    def backward(m, grad_in, grad_out, name=name):
        tensors[name + "/output"] = grad_out[0].square().flatten(0, -2).mean(0)
    hooks += [module.register_forward_hook(forward), module.register_full_backward_hook(backward)]
logits = model(x).logits
loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten(), reduction="sum")
loss.backward()
for name, p in model.named_parameters():
    if "layers" in name and p.dim() == 2:
        flat = p.grad.flatten()
        tensors[name + "/norm"] = flat.norm()[None]
        tensors[name + "/sample"] = flat[:: flat.numel() // SAMPLES][:SAMPLES]
json.dump({"ids": x.tolist(), "loss": loss.item(), "tensors": {k: pack(v) for k, v in tensors.items()}}, open(out, "w"))
