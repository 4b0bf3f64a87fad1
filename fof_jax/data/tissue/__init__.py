"""The parts of the phantom: patients, noise, nuclei, structures, stain, PNG."""
