"""What an alert holds and its bytes: schemas, rows, cutouts, Avro, the Confluent wire format, filters."""
