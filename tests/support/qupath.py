"""The keys of GeoJSON that QuPath reads, of the types that it reads (0.4 to 0.6)."""


def require(feature):
    """Fails for a feature with other keys or types."""
    assert set(feature) == {"type", "geometry", "properties"}
    assert feature["type"] == "Feature"
    properties = feature["properties"]
    assert properties["objectType"] in ("tile", "annotation")
    assert set(properties["classification"]) == {"name", "color"}
    color = properties["classification"]["color"]
    assert len(color) == 3
    assert all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    for name, value in properties["measurements"].items():
        assert isinstance(name, str)
        assert isinstance(value, float)
