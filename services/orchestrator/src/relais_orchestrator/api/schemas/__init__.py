"""What the routes' schemas are made of: fields that several of them share, with every bound beside its field."""
