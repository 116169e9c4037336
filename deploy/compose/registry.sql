-- The schema registry keeps its schemas beside the APDB.
CREATE DATABASE registry;
