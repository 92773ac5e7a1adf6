"""CLIP models by their sizes: OpenAI's nine, and any other for a test or a benchmark."""

from dataclasses import dataclass

from models.clip.model import CLIP, CLIPImageTower
from models.clip.text import TextTransformer
from models.clip.vision import ModifiedResNet, VisionTransformer

HEAD_WIDTH = 64


@dataclass(frozen=True)
class Architecture:
    """Sizes of a CLIP model. A ViT has one number of layers and a patch size, a ResNet four numbers and none."""

    embed_dim: int
    resolution: int  # pixels
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    patch_size: int | None
    text_width: int
    text_layers: int = 12
    context_length: int = 77
    vocab_size: int = 49408

    def build(self, activation: str = "quick_gelu") -> CLIP:
        """The model with uninitialised weights; under `torch.device("meta")` it takes no memory."""
        text = TextTransformer(
            context_length=self.context_length,
            vocab_size=self.vocab_size,
            width=self.text_width,
            layers=self.text_layers,
            heads=max(1, self.text_width // HEAD_WIDTH),
            embed_dim=self.embed_dim,
            activation=activation,
        )
        return CLIP(self._build_visual(activation), text)

    def _build_visual(self, activation: str) -> CLIPImageTower:
        if isinstance(self.vision_layers, tuple):
            return ModifiedResNet(
                resolution=self.resolution,
                layers=self.vision_layers,
                width=self.vision_width,
                heads=max(1, self.vision_width * 32 // HEAD_WIDTH),
                embed_dim=self.embed_dim,
            )
        assert self.patch_size is not None
        return VisionTransformer(
            resolution=self.resolution,
            patch_size=self.patch_size,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=max(1, self.vision_width // HEAD_WIDTH),
            embed_dim=self.embed_dim,
            activation=activation,
        )


ARCHITECTURES = {
    "RN50": Architecture(1024, 224, (3, 4, 6, 3), 64, None, 512),
    "RN101": Architecture(512, 224, (3, 4, 23, 3), 64, None, 512),
    "RN50x4": Architecture(640, 288, (4, 6, 10, 6), 80, None, 640),
    "RN50x16": Architecture(768, 384, (6, 8, 18, 8), 96, None, 768),
    "RN50x64": Architecture(1024, 448, (3, 15, 36, 10), 128, None, 1024),
    "ViT-B/32": Architecture(512, 224, 12, 768, 32, 512),
    "ViT-B/16": Architecture(512, 224, 12, 768, 16, 512),
    "ViT-L/14": Architecture(768, 224, 24, 1024, 14, 768),
    "ViT-L/14@336px": Architecture(768, 336, 24, 1024, 14, 768),
}
