"""StyleGAN2 in plain torch: any power-of-two resolution from 16 to 1024, any channel plan, a gate per filter."""

from tenshot.nets.discriminator import Discriminator as Discriminator
from tenshot.nets.discriminator import DiscriminatorSpec as DiscriminatorSpec
from tenshot.nets.generator import Generator as Generator
from tenshot.nets.generator import GeneratorSpec as GeneratorSpec
from tenshot.nets.generator import channel_plan as channel_plan
from tenshot.nets.generator import pixel_sizes as pixel_sizes
