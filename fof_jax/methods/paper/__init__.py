"""The method as published: Eq. (1)-(6), one file a step."""
