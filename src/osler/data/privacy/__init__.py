"""What names a patient stays out of pictures, names, records and files: de-identified DICOM files, and readers under keyed names."""
