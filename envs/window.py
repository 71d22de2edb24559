"""A plain window that shows pictures, for ``render_mode="human"``."""

from __future__ import annotations

import numpy as np

from wmtoolkit.envs.rendering import side_by_side


class Window:
    """A pygame window titled ``title`` that shows at most ``fps`` pictures a second."""

    def __init__(self, title: str, fps: float) -> None:
        import pygame

        pygame.display.init()
        pygame.display.set_caption(title)
        self._pygame = pygame
        self._clock = pygame.time.Clock()
        self._fps = fps

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Show (H, W, 3) uint8 under its caption."""
        page = side_by_side([picture], [caption])
        size = (page.shape[1], page.shape[0])
        screen = self._pygame.display.get_surface()
        if screen is None or screen.get_size() != size:
            screen = self._pygame.display.set_mode(size)
        screen.blit(self._pygame.surfarray.make_surface(page.transpose(1, 0, 2)), (0, 0))
        self._pygame.event.pump()
        self._pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        self._pygame.display.quit()
