"""DICOM whole-slide series written by pydicom: a file per level, uncompressed tiles."""

import numpy as np

CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
SIDE = 64  # of a tile


def write_level(path, pixels, *, mpp, series, level=0):
    """Writes one level: RGB, uint8 [h, w, 3], in tiles of a whole grid (TILED_FULL)."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    height, width = pixels.shape[:2]
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    padded = np.full((rows * SIDE, columns * SIDE, 3), 255, np.uint8)
    padded[:height, :width] = pixels
    tiles = padded.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CLASS
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(level)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID = CLASS
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID = generate_uid(entropy_srcs=[series, "study"])
    file.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    file.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
    file.Modality = "SM"
    kind = "DERIVED", "RESAMPLED" if level else "NONE"
    file.ImageType = [
        "ORIGINAL" if not level else kind[0],
        "PRIMARY",
        "VOLUME",
        kind[1],
    ]
    file.SamplesPerPixel, file.PhotometricInterpretation = 3, "RGB"
    file.PlanarConfiguration, file.PixelRepresentation = 0, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.Rows, file.Columns = SIDE, SIDE
    file.NumberOfFrames = rows * columns
    file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = height, width
    # Millimeters; wsidicom requires them.
    file.ImagedVolumeWidth = width * mpp / 1000
    file.ImagedVolumeHeight = height * mpp / 1000
    file.ImagedVolumeDepth = 0.001
    file.TotalPixelMatrixFocalPlanes, file.NumberOfOpticalPaths = 1, 1
    file.DimensionOrganizationType = "TILED_FULL"
    measures = Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]  # millimeters
    measures.SliceThickness = 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    file.PixelData = np.ascontiguousarray(tiles).tobytes()
    file.save_as(path, enforce_file_format=True)


def write_series(folder, pixels, *, mpp, series="one", levels=2):
    """A file per level, each half as large as the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for level in range(levels):
        step = 2**level
        write_level(
            folder / f"{series}_{level}.dcm",
            np.ascontiguousarray(pixels[::step, ::step]),
            mpp=mpp * step,
            series=series,
            level=level,
        )
    return folder / f"{series}_0.dcm"
