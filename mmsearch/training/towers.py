"""The two towers `mini` starts from, as plain torch modules: an EfficientNet-Lite and a MiniLM (BERT) encoder.

Both give states, not embeddings: the image tower spatial tokens (B, N, C), the text tower token states (B, L, C).
Pooling and projection come after, in `dual_encoder`, so that the matching head can read the same states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# (repeats, kernel, stride, expansion, input channels, output channels) of the seven stages,
# EfficientNet: Tan & Le 2019, arXiv 1905.11946, Table 1, without squeeze-and-excitation ("Lite").
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STEM_CHANNELS = 32
IMAGE_CHANNELS = 1280
EARLY_STAGES = 5  # stages 1-5 end at stride 16; stages 6-7 and the last 1x1 convolution are the late part
PIXEL_MEAN, PIXEL_SCALE = 127.0, 128.0  # the Lite weights expect (x - 127) / 128 of 0..255 RGB


@dataclass(frozen=True)
class ImageTowerConfig:
    """Shape of an EfficientNet-Lite: `lite0` is (1.0, 1.0), `lite2` is (1.1, 1.2)."""

    width: float = 1.0
    depth: float = 1.0


LITE_CONFIGS = {"lite0": ImageTowerConfig(1.0, 1.0), "lite2": ImageTowerConfig(1.1, 1.2)}


def scaled_channels(channels: int, width: float) -> int:
    """Return `channels` x `width` rounded to a multiple of 8, never more than 10 % below the exact product."""
    if width == 1.0:
        return channels
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class SameConv(nn.Conv2d):
    """Convolution whose output has ceil(size / stride) rows, padding the right and bottom more (TensorFlow "SAME")."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=True)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, cols = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in input.shape[-2:])
        if rows % 2 == 0 and cols % 2 == 0:
            padding = (rows // 2, cols // 2)
        else:
            input = functional.pad(input, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
            padding = (0, 0)
        if self.groups == 1:
            return functional.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, 1)
        # The bfloat16 gradients of depthwise convolutions are several times slower on a CPU than the float32 ones.
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.float(), self.bias.float() if self.bias is not None else None
            return functional.conv2d(input.float(), weight, bias, self.stride, padding, self.dilation, self.groups)


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection; ReLU6; batch norm folded in."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = SameConv(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = SameConv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else functional.relu6(self.expand(x))
        out: Tensor = self.project(functional.relu6(self.depthwise(hidden)))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite with batch norm folded into the convolutions: uint8 pixels -> spatial tokens.

    `early` and `late` are the two halves around the stride-16 map, so that the early half can be cached.
    """

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        stages: list[nn.Sequential] = []
        inputs = STEM_CHANNELS
        for number, (repeats, kernel, stride, expansion, _, base) in enumerate(_STAGES):
            outputs = scaled_channels(base, config.width)
            # The Lite family scales neither the first nor the last stage in depth.
            fixed = number in (0, len(_STAGES) - 1)
            blocks = []
            for block in range(repeats if fixed else math.ceil(repeats * config.depth)):
                blocks.append(MBConv(inputs, outputs, kernel, stride=stride if block == 0 else 1, expansion=expansion))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = SameConv(inputs, IMAGE_CHANNELS, 1)

    def early(self, pixels: Tensor) -> Tensor:
        """Return the (B, C, H/16, W/16) map of uint8 or float `pixels` (B, 3, H, W) in 0..255."""
        x = functional.relu6(self.stem((pixels.float() - PIXEL_MEAN) / PIXEL_SCALE))
        for stage in self.stages[:EARLY_STAGES]:
            x = stage(x)
        return x

    def late(self, early_map: Tensor) -> Tensor:
        """Return spatial tokens (B, N, 1280) of an `early` map, row by row from the top left; values in [0, 6]."""
        x = early_map
        for stage in self.stages[EARLY_STAGES:]:
            x = stage(x)
        return functional.relu6(self.head(x)).flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return spatial tokens (B, N, 1280) of uint8 `pixels` (B, 3, H, W), N = ceil(H/32) x ceil(W/32)."""
        return self.late(self.early(pixels))


@dataclass(frozen=True)
class TextTowerConfig:
    """Shape of a BERT encoder; the defaults are all-MiniLM-L6-v2."""

    vocabulary: int = 30522
    width: int = 384
    layers: int = 6
    attention_heads: int = 12
    hidden: int = 1536
    max_tokens: int = 512
    norm_eps: float = 1e-12


class BertLayer(nn.Module):
    """One post-norm transformer layer (Devlin et al. 2018, arXiv 1810.04805)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.attention_heads = config.attention_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.attention_out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.expand = nn.Linear(config.width, config.hidden)
        self.project = nn.Linear(config.hidden, config.width)
        self.out_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return the (B, L, C) states after this layer; `bias` (B, 1, 1, L) is 0 at tokens, -1e4 at padding."""
        batch, length, width = x.shape
        split = (batch, length, self.attention_heads, width // self.attention_heads)
        query, key, value = (p(x).view(split).transpose(1, 2) for p in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(split[-1])
        weights = torch.softmax(scores.float() + bias, dim=-1).to(value.dtype)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
        x = self.attention_norm(x + self.attention_out(mixed))
        normed: Tensor = self.out_norm(x + self.project(functional.gelu(self.expand(x))))
        return normed


class MiniLM(nn.Module):
    """BERT encoder of word pieces: ids and mask -> token states (B, L, C)."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width)
        self.position_embeddings = nn.Embedding(config.max_tokens, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return token states (B, L, C) of int64 `input_ids` (B, L); states at padding are meaningless."""
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        x: Tensor = self.norm(self.word_embeddings(input_ids) + positions)
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return x
