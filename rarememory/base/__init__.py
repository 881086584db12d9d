"""What every part of the package stands on: data types, validation, versions of tensors."""
