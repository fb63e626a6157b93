"""A network that compiles in a second or two, and `topgap` with it as a real process."""

from functools import partial

from topgap_jax.cli import main
from topgap_jax.models import registry, resnet

TINY = registry.ARCHITECTURES["resnet_narrow"]._replace(
    build=partial(resnet.ResNet, (1,), resnet.BasicBlock, widths=(8,), strides=(2,), stem="half")
)

if __name__ == "__main__":
    registry.ARCHITECTURES["tiny"] = TINY
    main()
