-- When somebody who is no operator has tested a channel last: each test is a message to somebody.

SET LOCAL lock_timeout = '5s';

ALTER TABLE control_plane.channels ADD COLUMN IF NOT EXISTS tested_at timestamptz;
