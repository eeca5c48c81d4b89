"""What is built on engines: arguments of calls, states kept between calls, recordings, masks, calibration."""
