"""The TestBed page: what runs see in an image, in the browser and by an API."""
