-- The outbox of notices becomes one that is sent from: who sends a row just now, when it is tried again, and how it ended.

SET LOCAL lock_timeout = '5s';

ALTER TABLE control_plane.notices
    -- The channel whose news it is; none: an address that a request or the configuration named.
    ADD COLUMN IF NOT EXISTS channel_id uuid,
    -- The same with every attempt, so that a receiver can tell that it has it already.
    ADD COLUMN IF NOT EXISTS delivery_id uuid,
    -- Not before.
    ADD COLUMN IF NOT EXISTS next_at timestamptz NOT NULL DEFAULT now(),
    -- Not after. What is in the outbox already is no news for longer than what comes.
    ADD COLUMN IF NOT EXISTS give_up_at timestamptz,
    ADD COLUMN IF NOT EXISTS lease_token uuid,
    ADD COLUMN IF NOT EXISTS lease_expires_at timestamptz,
    -- Why the last attempt failed. Without secrets.
    ADD COLUMN IF NOT EXISTS last_error text,
    -- When it was sent or given up.
    ADD COLUMN IF NOT EXISTS ended_at timestamptz;
UPDATE control_plane.notices SET give_up_at = created_at + interval '3 days' WHERE give_up_at IS NULL;
-- Filled here and not by the column's default, which would write the whole table anew.
UPDATE control_plane.notices SET delivery_id = gen_random_uuid() WHERE delivery_id IS NULL;
ALTER TABLE control_plane.notices
    ALTER COLUMN delivery_id SET DEFAULT gen_random_uuid(),
    ALTER COLUMN delivery_id SET NOT NULL,
    ALTER COLUMN give_up_at SET DEFAULT now() + interval '3 days',
    ALTER COLUMN give_up_at SET NOT NULL;

CREATE INDEX IF NOT EXISTS idx_notices_due ON control_plane.notices (next_at, id) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS idx_notices_waiting ON control_plane.notices (channel, channel_id) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS idx_notices_ended ON control_plane.notices (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_notices_failed ON control_plane.notices (id) WHERE status = 'failed';
