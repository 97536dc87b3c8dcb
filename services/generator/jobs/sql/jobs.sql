-- name: claim_job
-- Claims a dispatched job. The new attempt number fences all later writes. An expired lease is not
-- taken over here: only the scheduler decides that a worker is gone, and dispatches the job again.
UPDATE blog_generations
   SET status = 'PROCESSING', attempt = attempt + 1, worker = $2,
       lease_until = now() + make_interval(secs => $3),
       started_at = coalesce(started_at, now()), not_before = NULL
 WHERE id = $1 AND status = 'PENDING' AND forwarded_at IS NOT NULL
RETURNING attempt, attempt - blameless AS counted_attempts, request, created_at, started_at,
          forwarded_at;

-- name: find_job
-- Returns the state of a job that could not be claimed.
SELECT id, instance_id AS store, status, attempt, worker, forwarded_at IS NOT NULL AS forwarded,
       created_at, started_at, finished_at, not_before, error, input_tokens, output_tokens,
       reasoning_tokens, images, cost_nanousd,
       (SELECT coalesce(sum(in_doubt), 0)::int FROM blog_steps WHERE job_id = id) AS in_doubt,
       extract(epoch FROM lease_until - now())::float8 AS lease_left_s
  FROM blog_generations WHERE id = $1;

-- name: extend_leases
-- Extends the leases of running jobs ($2) of this worker ($1). Returns the jobs that it still
-- holds.
UPDATE blog_generations SET lease_until = now() + make_interval(secs => $3)
 WHERE id = ANY ($2::uuid[]) AND worker = $1 AND status = 'PROCESSING'
RETURNING id;

-- name: find_cancelled
-- Returns those of the jobs ($1) that are cancelled.
SELECT id FROM blog_generations WHERE id = ANY ($1::uuid[]) AND status = 'CANCELLED';

-- name: release_cancelled
-- Records that the worker of a cancelled job has stopped: adds the cost of the call that was in
-- progress, and lets a retry start before the end of the lease. Returns the job's state.
UPDATE blog_generations AS job
   SET lease_until = NULL, input_tokens = bill.input_tokens, output_tokens = bill.output_tokens,
       reasoning_tokens = bill.reasoning_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND job.attempt = $2 AND job.worker = $3 AND job.status = 'CANCELLED'
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at,
          job.started_at, job.finished_at, job.not_before, job.error, job.input_tokens,
          job.output_tokens, job.reasoning_tokens, job.images, job.cost_nanousd, bill.in_doubt;

-- name: load_steps
-- Returns the steps that earlier attempts have saved. age_s: the time since the last call began. The
-- limits (isolated_in_doubt, counted_unusable, gave_up) begin anew with a user's retry.
SELECT step, state, external_id, account, result,
       CASE WHEN counted_retries = retries THEN isolated_in_doubt ELSE 0 END AS isolated_in_doubt,
       CASE WHEN counted_retries = retries THEN counted_unusable ELSE 0 END AS counted_unusable,
       CASE WHEN counted_retries = retries THEN gave_up END AS gave_up,
       in_doubt, extract(epoch FROM now() - call_started_at)::float8 AS age_s
  FROM blog_steps JOIN blog_generations ON id = job_id
 WHERE job_id = $1;

-- name: begin_step
-- Records that a paid call is about to begin. Returns no row if the lease is lost. in_doubt counts
-- the calls of earlier attempts that were begun and never answered; isolated_in_doubt those since
-- the last retry by a user. A step that a late answer has set to DONE stays DONE. The same statement
-- records the call for the next owner of its partition ($5 to $9).
WITH begun AS (
    INSERT INTO blog_steps AS step (job_id, step, state, attempt, counted_retries)
    SELECT id, $2, 'STARTED', attempt, retries FROM blog_generations
     WHERE id = $1 AND attempt = $3 AND worker = $4 AND status = 'PROCESSING'
    ON CONFLICT (job_id, step) DO UPDATE
       SET state = CASE step.state WHEN 'DONE' THEN step.state ELSE excluded.state END,
           attempt = CASE step.state WHEN 'DONE' THEN step.attempt ELSE excluded.attempt END,
           call_started_at = CASE step.state WHEN 'DONE' THEN step.call_started_at ELSE now() END,
           finished_at = CASE step.state WHEN 'DONE' THEN step.finished_at END,
           in_doubt = step.in_doubt
               + (step.state = 'STARTED' AND step.external_id IS NULL
                  AND step.attempt <> excluded.attempt)::int,
           isolated_in_doubt = CASE WHEN step.counted_retries = excluded.counted_retries
               THEN step.isolated_in_doubt
                    + (step.state = 'STARTED' AND step.external_id IS NULL
                       AND step.attempt <> excluded.attempt)::int
               ELSE 0 END,
           counted_unusable = CASE WHEN step.counted_retries = excluded.counted_retries
               THEN step.counted_unusable ELSE 0 END,
           gave_up = CASE WHEN step.counted_retries = excluded.counted_retries
               THEN step.gave_up END,
           counted_retries = excluded.counted_retries
    RETURNING state, in_doubt, isolated_in_doubt, external_id, account, result, counted_unusable,
              gave_up
), recorded AS (
    INSERT INTO provider_calls (job_id, step, started_at, partition, provider, requests, tokens)
    SELECT $1, $2, $5::timestamptz, $6::int, $7::text, $8::int, $9::bigint
      FROM begun WHERE state = 'STARTED'
    ON CONFLICT DO NOTHING
)
SELECT begun.*, 0::float8 AS age_s FROM begun;

-- name: withdraw_step
-- Takes back the begin of a call by attempt $3 that was not made: nothing is in doubt.
UPDATE blog_steps SET state = 'FAILED', finished_at = now()
 WHERE job_id = $1 AND step = $2 AND attempt = $3 AND state = 'STARTED' AND external_id IS NULL;

-- name: save_external_id
-- Saves the id ($3) that a provider account ($4) gave to a call, as soon as it exists, without a
-- fence, because the call is paid for. A late attempt does not replace the id of another attempt.
UPDATE blog_steps SET external_id = $3, account = $4
 WHERE job_id = $1 AND step = $2 AND external_id IS NULL;

-- name: finish_step
-- Saves the answer and cost of attempt $9 of a step; repeating it changes nothing. A paid answer is
-- saved without a fence. A step that is DONE keeps its answer, and only its cost grows. A late
-- failure leaves the call of a later attempt STARTED. late_attempts makes late answers idempotent:
-- an attempt has one at most, because it cannot begin another call. $10: the call is in doubt.
-- $11: its answer was paid and unusable. $12: the id of a prediction that has ended without an
-- image; it is removed, so that another one is created. $14: the in-doubt call is isolated. $15: the
-- error code if the step is not repeated.
UPDATE blog_steps
   SET state = CASE WHEN state = 'DONE' THEN state
                    WHEN attempt > $9 AND $3 <> 'DONE'
                         AND $12::text IS DISTINCT FROM coalesce(external_id, '') THEN state
                    ELSE $3 END,
       attempt = CASE WHEN state = 'DONE' THEN attempt
                      WHEN $3 = 'DONE' THEN $9
                      ELSE greatest(attempt, $9) END,
       result = CASE state WHEN 'DONE' THEN result ELSE coalesce($4, result) END,
       finished_at = CASE WHEN attempt > $9 AND $3 <> 'DONE' THEN finished_at
                          ELSE now() END,
       input_tokens = input_tokens + $5, output_tokens = output_tokens + $6,
       images = images + $7, cost_nanousd = cost_nanousd + $8,
       reasoning_tokens = reasoning_tokens + $13,
       in_doubt = in_doubt + $10::boolean::int, unusable = unusable + $11::boolean::int,
       external_id = CASE WHEN external_id = $12::text THEN NULL ELSE external_id END,
       account = CASE WHEN external_id = $12::text THEN NULL ELSE account END,
       isolated_in_doubt = isolated_in_doubt + $14::boolean::int,
       counted_unusable = counted_unusable + $11::boolean::int,
       gave_up = CASE WHEN attempt > $9 THEN gave_up ELSE coalesce($15, gave_up) END,
       late_attempts = CASE WHEN state = 'DONE' OR attempt > $9 THEN late_attempts || $9::int
                            ELSE late_attempts END
 WHERE job_id = $1 AND step = $2 AND NOT (attempt = $9 AND state <> 'STARTED')
   AND $9 <> ALL (late_attempts);

-- name: finish_assembly
-- Records the last step when it is done: it has no paid call that must be recorded before.
INSERT INTO blog_steps (job_id, step, state, attempt, finished_at)
VALUES ($1, 'assemble', 'DONE', $2, now())
ON CONFLICT (job_id, step) DO UPDATE
   SET state = 'DONE', attempt = excluded.attempt, finished_at = now();

-- name: save_post
-- Saves the finished post.
INSERT INTO blog_posts (job_id, title, slug, meta_description, html, image_url)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (job_id) DO UPDATE
   SET title = excluded.title, slug = excluded.slug, meta_description = excluded.meta_description,
       html = excluded.html, image_url = excluded.image_url;

-- name: end_attempt
-- Leaves PROCESSING under the fence (id, attempt, worker), with the cost of all the job's steps so
-- far.
UPDATE blog_generations AS job
   SET status = $4, error_code = $5, error = $6, lease_until = NULL,
       not_before = CASE WHEN $4 = 'PENDING' THEN now() + make_interval(secs => $7) END,
       blameless = blameless + $8::boolean::int,
       forwarded_at = CASE WHEN $4 = 'PENDING' THEN NULL ELSE forwarded_at END,
       finished_at = CASE WHEN $4 = 'PENDING' THEN NULL ELSE now() END,
       input_tokens = bill.input_tokens, output_tokens = bill.output_tokens,
       reasoning_tokens = bill.reasoning_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND job.attempt = $2 AND job.worker = $3 AND job.status = 'PROCESSING'
RETURNING job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images,
          job.cost_nanousd, bill.in_doubt, job.not_before, coalesce(job.finished_at, now()) AS at;
