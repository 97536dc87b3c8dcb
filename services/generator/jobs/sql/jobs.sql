-- name: claim
-- Take a forwarded job. The new attempt's number fences all later writes. A claim whose lease has ended is not taken
-- over here: the scheduler alone judges that its worker is gone, and forwards the job again.
UPDATE blog_generations
   SET status = 'PROCESSING', attempt = attempt + 1, worker = $2, lease_until = now() + make_interval(secs => $3),
       started_at = coalesce(started_at, now()), not_before = NULL
 WHERE id = $1 AND status = 'PENDING' AND forwarded_at IS NOT NULL
RETURNING attempt, attempt - blameless AS tries, request, created_at, started_at, forwarded_at;

-- name: look
-- Why a job could not be claimed: what is true of it.
SELECT id, instance_id AS store, status, attempt, worker, forwarded_at IS NOT NULL AS forwarded, created_at, started_at,
       finished_at, not_before, error, input_tokens, output_tokens, images, cost_nanousd,
       (SELECT coalesce(sum(in_doubt), 0)::int FROM blog_steps WHERE job_id = id) AS in_doubt,
       extract(epoch FROM lease_until - now())::float8 AS lease_left_s
  FROM blog_generations WHERE id = $1;

-- name: heartbeat
-- Prolong the leases of this worker's ($1) running jobs; those not returned are no longer its own.
UPDATE blog_generations SET lease_until = now() + make_interval(secs => $3)
 WHERE id = ANY ($2::uuid[]) AND worker = $1 AND status = 'PROCESSING'
RETURNING id;

-- name: cancelled
-- Which of these jobs ($1) somebody has cancelled.
SELECT id FROM blog_generations WHERE id = ANY ($1::uuid[]) AND status = 'CANCELLED';

-- name: let_go
-- The worker of a cancelled job has stopped: what the call that was in flight has cost is added, and a retry need not
-- wait for the end of the lease. Returns what is true of the job now.
UPDATE blog_generations AS job
   SET lease_until = NULL, input_tokens = bill.input_tokens, output_tokens = bill.output_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND job.attempt = $2 AND job.worker = $3 AND job.status = 'CANCELLED'
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.worker, job.created_at, job.started_at,
          job.finished_at, job.not_before, job.error, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
          bill.in_doubt;

-- name: steps
-- What earlier attempts have saved.
SELECT step, state, external_id, result, in_doubt FROM blog_steps WHERE job_id = $1;

-- name: begin_step
-- Note that a call is about to be paid for. Nothing is returned when the claim is lost. in_doubt counts calls that
-- earlier attempts began and that were never answered. A step that is DONE by now, by a late answer, stays so.
-- The call is put on record for whoever takes over its partition ($5 to $9) in the same breath.
WITH begun AS (
    INSERT INTO blog_steps AS step (job_id, step, state, attempt)
    SELECT id, $2, 'STARTED', attempt FROM blog_generations
     WHERE id = $1 AND attempt = $3 AND worker = $4 AND status = 'PROCESSING'
    ON CONFLICT (job_id, step) DO UPDATE
       SET state = CASE step.state WHEN 'DONE' THEN step.state ELSE excluded.state END,
           attempt = CASE step.state WHEN 'DONE' THEN step.attempt ELSE excluded.attempt END,
           call_started_at = CASE step.state WHEN 'DONE' THEN step.call_started_at ELSE now() END,
           finished_at = CASE step.state WHEN 'DONE' THEN step.finished_at END,
           in_doubt = step.in_doubt
               + (step.state = 'STARTED' AND step.external_id IS NULL AND step.attempt <> excluded.attempt)::int
    RETURNING state, in_doubt, external_id, result
), recorded AS (
    INSERT INTO provider_calls (job_id, step, started_at, partition, provider, requests, tokens)
    SELECT $1, $2, $5::timestamptz, $6::int, $7::text, $8::int, $9::bigint FROM begun WHERE state = 'STARTED'
    ON CONFLICT DO NOTHING
)
SELECT state, in_doubt, external_id, result FROM begun;

-- name: spent_since
-- What was begun in these partitions ($1), each since a time of its own ($2).
SELECT call.partition, call.provider, sum(call.requests)::float8 AS requests, sum(call.tokens)::float8 AS tokens
  FROM unnest($1::int[], $2::timestamptz[]) AS saved (partition, at)
  JOIN provider_calls AS call ON call.partition = saved.partition AND call.started_at > saved.at
 GROUP BY call.partition, call.provider;

-- name: forget_calls
-- Records of calls that every owner has noted long since.
DELETE FROM provider_calls WHERE started_at < now() - interval '10 minutes';

-- name: name_call
-- Save the provider's id of a call as soon as it exists ($3). Whoever holds the claim by now: it is paid for. But an
-- attempt that comes late does not take the place of another's.
UPDATE blog_steps SET external_id = $3 WHERE job_id = $1 AND step = $2 AND external_id IS NULL;

-- name: forget_call
-- What the provider no longer has, or could not do, is to be made anew.
UPDATE blog_steps SET external_id = NULL WHERE job_id = $1 AND step = $2 AND external_id = $3;

-- name: finish_step
-- Save what attempt $9 of a step has brought and cost: once, however often it is said. A paid answer is saved whoever
-- holds the claim by now; what is DONE stays as it is, and only the bill grows. $10: whether nobody can say if it was
-- billed.
UPDATE blog_steps
   SET state = CASE state WHEN 'DONE' THEN state ELSE $3 END,
       attempt = CASE state WHEN 'DONE' THEN attempt ELSE $9 END,
       result = CASE state WHEN 'DONE' THEN result ELSE coalesce($4, result) END,
       finished_at = now(), input_tokens = input_tokens + $5,
       output_tokens = output_tokens + $6, images = images + $7, cost_nanousd = cost_nanousd + $8,
       in_doubt = in_doubt + $10::boolean::int
 WHERE job_id = $1 AND step = $2 AND NOT (attempt = $9 AND state <> 'STARTED');

-- name: finish_assembly
-- The last step has no call to pay for: it is noted when it is done.
INSERT INTO blog_steps (job_id, step, state, attempt, finished_at) VALUES ($1, 'assemble', 'DONE', $2, now())
ON CONFLICT (job_id, step) DO UPDATE SET state = 'DONE', attempt = excluded.attempt, finished_at = now();

-- name: save_post
-- The finished post.
INSERT INTO blog_posts (job_id, title, slug, meta_description, html, image_url) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (job_id) DO UPDATE
   SET title = excluded.title, slug = excluded.slug, meta_description = excluded.meta_description,
       html = excluded.html, image_url = excluded.image_url;

-- name: end_attempt
-- Leave PROCESSING under the fence (id, attempt, worker), with all that the job's steps have cost so far.
UPDATE blog_generations AS job
   SET status = $4, error_code = $5, error = $6, lease_until = NULL,
       not_before = CASE WHEN $4 = 'PENDING' THEN now() + make_interval(secs => $7) END,
       blameless = blameless + $8::boolean::int,
       forwarded_at = CASE WHEN $4 = 'PENDING' THEN NULL ELSE forwarded_at END,
       finished_at = CASE WHEN $4 = 'PENDING' THEN NULL ELSE now() END,
       input_tokens = bill.input_tokens, output_tokens = bill.output_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND job.attempt = $2 AND job.worker = $3 AND job.status = 'PROCESSING'
RETURNING job.input_tokens, job.output_tokens, job.images, job.cost_nanousd, bill.in_doubt, job.not_before,
          coalesce(job.finished_at, now()) AS at;
