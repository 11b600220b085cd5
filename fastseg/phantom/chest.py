"""The anatomy of the synthetic CT: rings in the plane of a slice, and what it shows."""

import math
from dataclasses import dataclass

import numpy as np

from fastseg.phantom.drawing import Array, Ring, fill_layers, uniform

# Hounsfield units of each tissue.
AIR, LUNG, TABLE, FAT, LIVER, MUSCLE, BLOOD = -1000, -790, -400, -95, 95, 45, 170
CANAL, CORD, TUMOUR, BONE = 5, 40, 40, 420


@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """One slice of a chest, in millimetres from the image's centre.

    x grows to the patient's left, y to the back. A point lies in a structure if it lies
    inside an odd number of its rings.
    """

    body: Ring
    inside: Ring  # of the fat below the skin
    mediastinum: Ring
    left_lung: Ring
    right_lung: Ring
    dome: Ring | None  # of the liver, within the right lung
    heart: Ring
    aorta: Ring
    oesophagus: Ring
    lumen: Ring
    vertebra: Ring
    canal: Ring
    cord: Ring
    tumour: Ring | None
    satellite: Ring | None  # of the tumour
    ribs: tuple[Ring, ...]

    @classmethod
    def draw(cls, seed: int, patient: int, level: float) -> "Chest":
        """Return a slice of a patient, whose rings follow from the arguments.

        level : from 0 at the feet's end of the series to 1 at the head's
        """
        u = uniform((seed, patient, 0, 2), 40)
        turn = 2 * math.pi * u[20:]
        size = 0.94 + 0.08 * u[0]

        def ring(
            x: float,
            y: float,
            radius: float,
            *waves: tuple[float, float],
            dents: tuple[tuple[float, float, float], ...] = (),
        ) -> Ring:
            return Ring(
                x=size * x, y=size * y, radius=size * radius, waves=waves, dents=dents
            )

        def bump(middle: float, width: float) -> float:
            """Return the relative radius of a ball, 1 in its middle, 0 outside."""
            return math.sqrt(max(0.0, 1 - ((level - middle) / width) ** 2))

        def unless_small(some: Ring) -> Ring | None:
            return some if some.radius > 5 else None

        outline = ((0.19, 0.0), (0.015, turn[0]), (0.012 + 0.01 * u[1], turn[1]))
        heart_radius = 33 + 4 * u[2] + 3 * bump(0.35, 0.9)
        heart_x = 16 + 4 * u[3]
        medial = math.atan2(-32, heart_x - 87)
        ribs = []
        for k in range(14):
            angle = 2 * math.pi * (k + 0.5 + 0.6 * (level - 0.5) + 0.2 * u[4]) / 14
            # On the wall of the chest, but not before the spine.
            wall = 121 * (1 + 0.19 * math.cos(2 * angle)) - 7.5
            if abs(angle - math.pi / 2) > 0.5:
                x, y = wall * math.cos(angle), wall * math.sin(angle)
                ribs.append(ring(x, y, 4, (0.25, -2 * angle - math.pi)))
        return cls(
            body=ring(0, 0, 128 + 2 * level, *outline),
            inside=ring(0, 0, 121, *outline),
            mediastinum=ring(4, -4, 66, (0.2, math.pi)),
            left_lung=ring(
                87,
                4,
                50 + level,
                (0.17, math.pi),
                (0.02, turn[2]),
                (0.015, turn[3]),
                dents=((0.5 - 0.04 * level, medial, 0.85), (0.14, 2.3, 0.4)),
            ),
            right_lung=ring(
                -78, 4, 52 + level, (0.17, math.pi), (0.02, turn[4]), (0.015, turn[5])
            ),
            dome=unless_small(
                ring(-78, 0, 32 * bump(0.0, 0.45 + 0.1 * u[5]), (0.08, turn[6]))
            ),
            heart=ring(
                heart_x,
                -28,
                heart_radius,
                (0.1, -0.9),
                (0.03, turn[7]),
                (0.015, turn[8]),
            ),
            aorta=ring(30, 40, 10.5, (0.03, turn[9])),
            oesophagus=ring(4, 24, 9.5, (0.1, turn[10])),
            lumen=ring(4, 24, 4.5, (0.1, turn[11])),
            vertebra=ring(0, 63, 23, (0.1, math.pi), (0.04, turn[12]), (0.04, 0.0)),
            canal=ring(0, 74, 9, (0.08, 0.0)),
            cord=ring(0.5, 74, 5.5, (0.1, 0.0)),
            tumour=unless_small(
                ring(
                    100,
                    -12,
                    (14 + 3 * u[6]) * bump(0.5 + 0.2 * u[7], 0.4),
                    (0.1, turn[13]),
                    (0.09, turn[14]),
                    (0.05, turn[15]),
                )
            ),
            satellite=unless_small(
                ring(92, 28, (7 + 2 * u[8]) * bump(0.6, 0.3), (0.1, turn[16]))
            ),
            ribs=tuple(ribs),
        )

    def structures(self) -> dict[str, tuple[Ring, ...]]:
        """Return the rings of each structure that this slice has."""
        some: dict[str, tuple[Ring | None, ...]] = {
            "body": (self.body,),
            "lung_left": (self.left_lung,),
            "lung_right": (self.right_lung, self.dome),
            "heart": (self.heart,),
            "oesophagus": (self.oesophagus, self.lumen),
            "vertebra": (self.vertebra, self.canal),
            "cord": (self.cord,),
            "tumour": (self.tumour, self.satellite),
        }
        rings = {
            name: tuple(ring for ring in those if ring is not None)
            for name, those in some.items()
        }
        return {name: those for name, those in rings.items() if those}

    def hounsfield(self, x: Array, y: Array, pixel: float) -> Array:
        """Return the noiseless image at points, in Hounsfield units.

        pixel : side of a pixel in millimetres
        """
        layers: list[tuple[Ring | None, float]] = [
            (self.body, FAT),
            (self.inside, MUSCLE),
            (self.mediastinum, FAT),
            (self.left_lung, LUNG),
            (self.right_lung, LUNG),
            (self.dome, LIVER),
            (self.heart, BLOOD),
            (self.aorta, BLOOD),
            (self.oesophagus, MUSCLE),
            (self.lumen, AIR),
            (self.vertebra, BONE),
            (self.canal, CANAL),
            (self.cord, CORD),
            (self.tumour, TUMOUR),
            (self.satellite, TUMOUR),
            *((rib, BONE) for rib in self.ribs),
        ]
        image = np.full_like(x, AIR)
        image[(np.abs(y - 118) < 4) & (np.abs(x) < 130)] = TABLE
        drawn = [(ring, tissue) for ring, tissue in layers if ring is not None]
        fill_layers(image, drawn, x, y, pixel)
        return image
