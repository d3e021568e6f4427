"""Answers or vectors for many sentences in this process, by kitune or one of its peers; figures as a JSON line.

predict.py starts it. The clock runs from texts in memory to an array in their order, tokenizing included, when the model
is loaded and has answered a few sentences. The settings of ONNX Runtime and OpenVINO (batch, fusion, hints) are the usual
advice; they have not been tuned on a quiet machine yet.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = NDArray[np.float32]
Answer = Callable[[list[str]], Outputs | None]  # texts -> (rows, width), or None where there is nothing to compare
WARM_ROWS, MAX_LENGTH = 256, 256
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Told:
    """What to do.

    Attributes:
        side: a key of SIDES.
        work: `classify` gives logits, `embed` mean-pooled vectors of unit length.
        model: a classification folder, for `embed` one with an encoder.
        texts: a .json file with a list.
        out: the .npy of the outputs.
        folder: for what a peer converts; kept over the pairs of a run.
        precision: kitune's; None: its default.
        started: when this process was, by `time.time`.
    """

    side: str
    work: str
    model: str
    texts: str
    out: str
    folder: str
    precision: str | None
    started: float


def kitune(told: Told) -> Answer:
    """kitune as it is installed."""
    named = {} if told.precision is None else {"precision": told.precision}
    model: Any = importlib.import_module("kitune").load(told.model, **named)
    if told.work == "embed":
        return lambda texts: np.asarray(model.embed(texts))
    return lambda texts: np.asarray(model.predict(texts).logits)


def sentence_transformers(told: Told) -> Answer:
    """As its documentation shows it: fp32, batches of 32."""
    model: Any = importlib.import_module("sentence_transformers").SentenceTransformer(told.model)
    return lambda texts: np.asarray(model.encode(texts))


def pipeline(told: Told) -> Answer:
    """transformers' text classification, a text at a time."""
    classify: Any = importlib.import_module("transformers").pipeline("text-classification", model=told.model)

    def answer(texts: list[str]) -> None:
        for text in texts:
            classify(text)

    return answer


def plain(told: Told) -> Answer:
    """torch in fp32: what the others' outputs are compared with."""
    import torch

    network = forward_of(told)

    def forward(batch: dict[str, Outputs]) -> Outputs:
        with torch.inference_mode():
            return np.asarray(network(*(torch.from_numpy(batch[name]) for name in INPUTS)))

    return in_batches(told, forward)


def onnx_int8(told: Told) -> Answer:
    """ONNX Runtime with weights in int8 and activations quantized on the way, on a graph with fused attention."""
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(int8_file(told)), providers=["CPUExecutionProvider"])
    return in_batches(told, lambda batch: np.asarray(session.run(None, batch)[0]))


def openvino(told: Told) -> Answer:
    """OpenVINO in its own choice of precision: bf16 where the processor has it."""
    vino: Any = importlib.import_module("openvino")
    compiled = vino.Core().compile_model(str(onnx_file(told)), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return in_batches(told, lambda batch: np.asarray(compiled(batch)[0]))


SIDES: dict[str, Callable[[Told], Answer]] = {
    "kitune": kitune,
    "sentence-transformers": sentence_transformers,
    "pipeline": pipeline,
    "onnx-int8": onnx_int8,
    "openvino": openvino,
    "plain": plain,
}


def in_batches(told: Told, forward: Callable[[dict[str, Outputs]], Outputs], rows: int = 32) -> Answer:
    """Texts -> outputs in their order, by batches of like length; the lengths come from tokenizing all texts at once."""
    tokenizer: Any = importlib.import_module("transformers").AutoTokenizer.from_pretrained(told.model)

    def batches(texts: list[str]) -> Iterator[tuple[NDArray[Any], dict[str, Any]]]:
        encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)["input_ids"]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        for begin in range(0, len(order), rows):
            chosen = order[begin : begin + rows]
            ids = np.zeros((len(chosen), len(encoded[chosen[-1]])), dtype=np.int64)
            mask = np.zeros_like(ids)
            for place, number in enumerate(chosen):
                ids[place, : len(encoded[number])] = encoded[number]
                mask[place, : len(encoded[number])] = 1
            yield chosen, dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))

    def answer(texts: list[str]) -> Outputs:
        parts = [(chosen, forward(batch)) for chosen, batch in batches(texts)]
        outputs = np.empty((len(texts), parts[0][1].shape[1]), dtype=np.float32)
        for chosen, part in parts:
            outputs[chosen] = part
        return outputs

    return answer


def forward_of(told: Told) -> Any:
    """A module (input_ids, attention_mask, token_type_ids) -> logits or vectors, in fp32."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification

    kind = AutoModel if told.work == "embed" else AutoModelForSequenceClassification
    network = kind.from_pretrained(told.model, dtype=torch.float32, attn_implementation="eager").eval()

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            done = self.network(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            if told.work == "classify":
                return done.logits
            mask = attention_mask.unsqueeze(-1).to(torch.float32)
            return torch.nn.functional.normalize((done.last_hidden_state * mask).sum(1), dim=-1)

    return Forward().eval()


def onnx_file(told: Told) -> Path:
    """The model in fp32, exported the first time it is asked for."""
    path = Path(told.folder) / f"{told.work}.onnx"
    if not path.exists():
        import torch

        example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in INPUTS)
        axes = {name: {0: "rows", 1: "length"} for name in INPUTS}
        # The older exporter: ONNX Runtime's fusion of attention does not know the graphs of the newer one.
        torch.onnx.export(
            forward_of(told),
            example,
            str(path),
            dynamo=False,
            input_names=list(INPUTS),
            output_names=["outputs"],
            dynamic_axes={**axes, "outputs": {0: "rows"}},
            opset_version=17,
        )
    return path


def int8_file(told: Told) -> Path:
    """The fp32 graph, fused as for a BERT, then quantized."""
    path = Path(told.folder) / f"{told.work}-int8.onnx"
    if not path.exists():
        from transformers import AutoConfig

        optimizer: Any = importlib.import_module("onnxruntime.transformers.optimizer")
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        onnx: Any = importlib.import_module("onnx")
        config = AutoConfig.from_pretrained(told.model)
        fused = path.with_name(f"{told.work}-fused.onnx")
        optimizer.optimize_model(
            str(onnx_file(told)),
            model_type="bert",
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
        ).save_model_to_file(str(fused))
        quantization.quantize_dynamic(
            str(fused),
            str(path),
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return path


def main() -> None:
    told = Told(**json.loads(sys.argv[1]))
    texts: list[str] = json.loads(Path(told.texts).read_text(encoding="utf-8"))
    answer = SIDES[told.side](told)
    answer(texts[:WARM_ROWS])
    began = time.perf_counter()
    outputs = answer(texts)
    seconds = time.perf_counter() - began
    if outputs is not None:
        np.save(told.out, outputs)
    whole = time.time() - told.started
    print(json.dumps({"seconds": seconds, "rows_per_s": len(texts) / seconds, "whole_s": whole}))


if __name__ == "__main__":
    main()
