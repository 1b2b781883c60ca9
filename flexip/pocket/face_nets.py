"""Two small nets that look at the crop of one creature: where its face's landmarks lie, and whose face it is.

They are the pocket world's stand-ins for a face library's landmark and identity models.
"""

from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from timm.models.convmixer import ConvMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.nn import functional

from flexip.pocket.face import LANDMARKS

FaceNetName = Literal["landmarks", "identity"]
FACE_NETS: tuple[FaceNetName, ...] = get_args(FaceNetName)
EMBEDDING = 64  # numbers of an identity
_WIDTH, _PATCH = 88, 4


class LandmarkNet(nn.Module):
    """Crops to landmarks: each the expectation of a heat map, finer than its cells (integral regression)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ConvMixer(dim=_WIDTH, depth=6, kernel_size=7, patch_size=_PATCH, num_classes=len(LANDMARKS))
        self.heat = nn.Conv2d(_WIDTH, len(LANDMARKS), 1)

    def forward(self, crops: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B 14 2"], Float[Tensor, "B 14"]]:
        """Positions x, y as fractions of the crop, and logits that a landmark is in sight; crops in -1..1."""
        features = self.body.forward_features(crops)
        heat = self.heat(features).float()
        side = heat.shape[-1]
        share = heat.flatten(2).softmax(dim=2)
        # A landmark may lie outside the crop: the outermost cells stand a little beyond its edge.
        ticks = torch.linspace(-0.1, 1.1, side, device=heat.device)
        y, x = torch.meshgrid(ticks, ticks, indexing="ij")
        points = share @ torch.stack([x.flatten(), y.flatten()], dim=1)
        return points, self.body.forward_head(features).float()


class IdentityNet(nn.Module):
    """Crops to unit vectors: close for one creature, whatever its pose, expression and surroundings."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet(
            cast(Any, BasicBlock), (1, 1, 1, 1), num_classes=EMBEDDING, stem_width=16, stem_type="deep",
            replace_stem_pool=True, channels=(16, 32, 56, 80),
        )  # fmt: skip

    def forward(self, crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 64"]:
        return functional.normalize(self.body(crops).float(), dim=-1)


def face_net_path(weights: Path, name: FaceNetName) -> Path:
    """Where a net lies in a weights folder."""
    return weights / "faces" / f"{name}.safetensors"


def build_face_net(name: FaceNetName) -> nn.Module:
    """A LandmarkNet or an IdentityNet, of random weights."""
    return LandmarkNet() if name == "landmarks" else IdentityNet()


def save_face_net(weights: Path, name: FaceNetName, net: nn.Module) -> None:
    """Writes `faces/<name>.safetensors`, fp16; running counts stay whole numbers."""
    path = face_net_path(weights, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, path)


def load_face_net(weights: Path, name: FaceNetName) -> nn.Module:
    """A net of the weights folder, in fp32, ready to look."""
    net = build_face_net(name)
    net.load_state_dict(load_file(face_net_path(weights, name)))
    return net.float().eval()
